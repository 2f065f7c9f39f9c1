"""What a configured node consists of, for its parts that need several of the others."""

from __future__ import annotations

from vggt_ros.config import Config
from vggt_ros.reconstruction.deferred import DeferredReconstructor
from vggt_ros.ros.common.lifecycle import TolerantLifecycleNode
from vggt_ros.ros.inputs.image_source import ImageSource
from vggt_ros.ros.inputs.initial_pose import InitialPose
from vggt_ros.ros.inputs.metric_scale import MetricInput
from vggt_ros.ros.node.image_tracking import ImageTracking
from vggt_ros.ros.node.map_files import MapFiles
from vggt_ros.ros.outputs.diagnostics import StatusMonitor
from vggt_ros.ros.outputs.publishers import Outputs
from vggt_ros.ros.tf.transforms import Transforms


class NodeParts(TolerantLifecycleNode):
    """A lifecycle node with the parts that are created when it is configured.

    Attributes:
        is_active: whether the lifecycle state is active.
        is_paused: whether images are left out until `resume` is called; the state stays active.

    """

    config: Config
    reconstructor: DeferredReconstructor
    source: ImageSource
    metric: MetricInput
    tracking: ImageTracking
    transforms: Transforms
    outputs: Outputs
    monitor: StatusMonitor
    maps: MapFiles
    initial_pose: InitialPose
    is_active = is_paused = False

    def pause(self) -> None:
        """Leave out images; map and TF stay."""
        raise NotImplementedError

    def resume(self) -> None:
        """Take images again."""
        raise NotImplementedError

    @property
    def has_map(self) -> bool:
        """Whether the node is active and its map is not just being replaced."""
        raise NotImplementedError
