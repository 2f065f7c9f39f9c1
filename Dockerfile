# vggt_ros on ROS 2 Jazzy, with the CPU reconstructor. Not tried: no machine that runs containers was at hand.
#   docker build -t vggt_ros .                              # --build-arg TORCH=1: with torch, for VGGT
#   docker run --rm -it --net=host --ipc=host vggt_ros ros2 launch vggt_ros slam.launch.py image:=/camera/image_raw
# For VGGT also --gpus all, and -v ~/.cache/huggingface:/root/.cache/huggingface for its weights.
FROM ros:jazzy
ARG TORCH=0
SHELL ["/bin/bash", "-ec"]
WORKDIR /ros2_ws
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-pip \
 && rm -rf /var/lib/apt/lists/*
# First what seldom changes. OpenCV comes from pip; RViz belongs on the machine that has a screen.
COPY package.xml requirements.txt src/vggt_ros/
RUN apt-get update && rosdep update --rosdistro jazzy \
 && rosdep install --from-paths src --ignore-src -y --skip-keys "python3-opencv rviz2" \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --system-site-packages venv && touch venv/COLCON_IGNORE && source venv/bin/activate \
 && grep -v '^gtsam' src/vggt_ros/requirements.txt \
    | pip install --no-cache-dir -r /dev/stdin "numpy<2" "opencv-python-headless<4.12" \
 && pip install --no-cache-dir --no-deps gtsam==4.3.0 \
 && if [ "$TORCH" = 1 ]; then pip install --no-cache-dir torch safetensors huggingface_hub "numpy<2"; fi
COPY . src/vggt_ros
RUN source /opt/ros/jazzy/setup.bash && source venv/bin/activate && colcon build --packages-select vggt_ros
RUN printf '%s\n' '#!/bin/bash' 'source /ros2_ws/venv/bin/activate' 'source /ros2_ws/install/setup.bash' 'exec "$@"' \
      > /vggt_entrypoint.sh && chmod +x /vggt_entrypoint.sh
ENTRYPOINT ["/vggt_entrypoint.sh"]
CMD ["ros2", "launch", "vggt_ros", "slam.launch.py"]
