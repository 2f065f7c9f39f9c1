# vggt_ros on ROS 2 Jazzy, with the CPU reconstructor. Not tried: no machine that runs containers was at hand.
#   docker build -t vggt_ros .                              # --build-arg TORCH=1: with torch, for VGGT
#   docker run --rm -it --net=host --ipc=host -v vggt_maps:/home/slam/.ros/vggt_maps vggt_ros \
#     ros2 launch vggt_ros slam.launch.py image:=/camera/image_raw
# Saved maps are in the volume. For VGGT also --gpus all, and -v ~/.cache/huggingface:/home/slam/.cache/huggingface for
# its weights. With shared memory (--ipc=host) the other processes need the same user id: --build-arg UID=$(id -u).
FROM ros:jazzy
ARG TORCH=0
SHELL ["/bin/bash", "-ec"]
WORKDIR /ros2_ws
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-pip \
 && rm -rf /var/lib/apt/lists/*
# First what seldom changes. OpenCV and rosbags come from pip, below.
COPY package.xml requirements.txt src/vggt_ros/
COPY vggt_ros_msgs/package.xml src/vggt_ros/vggt_ros_msgs/
RUN ln -s vggt_ros/vggt_ros_msgs src/
RUN apt-get update && rosdep update --rosdistro jazzy \
 && rosdep install --from-paths src --ignore-src -y --skip-keys "python3-opencv python3-rosbags-pip" \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --system-site-packages venv && touch venv/COLCON_IGNORE && source venv/bin/activate \
 && grep -v '^gtsam' src/vggt_ros/requirements.txt \
    | pip install --no-cache-dir -r /dev/stdin "numpy<2" "opencv-python-headless<4.12" \
 && pip install --no-cache-dir --no-deps gtsam==4.3.0 \
 && if [ "$TORCH" = 1 ]; then pip install --no-cache-dir torch safetensors huggingface_hub "numpy<2"; fi
COPY . src/vggt_ros
RUN source /opt/ros/jazzy/setup.bash && source venv/bin/activate && colcon build --packages-up-to vggt_ros
RUN printf '%s\n' '#!/bin/bash' 'source /ros2_ws/venv/bin/activate' 'source /ros2_ws/install/setup.bash' 'exec "$@"' \
      > /vggt_entrypoint.sh && chmod +x /vggt_entrypoint.sh
# Not root: maps belong to the user of the machine. ros:jazzy has a user `ubuntu` with the id 1000, which goes.
ARG UID=1000
RUN (userdel -r ubuntu || true) && useradd --create-home --uid "$UID" slam \
 && install -d -o slam /home/slam/.ros/vggt_maps /home/slam/.cache/huggingface
USER slam
# Shared memory of DDS that holds images and clouds; the nodes outside need the same profile.
ENV FASTRTPS_DEFAULT_PROFILES_FILE=/ros2_ws/install/vggt_ros/share/vggt_ros/config/fastdds.xml
VOLUME /home/slam/.ros/vggt_maps
ENTRYPOINT ["/vggt_entrypoint.sh"]
CMD ["ros2", "launch", "vggt_ros", "slam.launch.py"]
