# Sourced by the commands beside it: the development environment, apart from any ROS that is sourced.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python

# The ROS wheels set these two for themselves; those of another environment would bring its libraries along.
if [ -n "${_ROS_WHEELS_BOOTSTRAP_COMPLETE:-}" ]; then unset _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH; fi
export PATH=$venv/bin:$PATH PYTHONPATH=$root
export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv ROS_DISTRO=jazzy
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp
# Without it, most large best-effort messages are lost in Fast DDS's default shared-memory segment.
export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$root/config/fastdds.xml}
