"""Robust loop selection: which loops are inliers, how uncertain the overlap factors are, and the resulting poses.

`consistency.py` has the tests for loops, `inlier_set.py` the solution of the graph with a set of them. Nodes are rows
of the spanning tree.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.pose_graph.consistency import (
    CHI2_GATE,
    Loop,
    consistent_set,
    residual_chi2,
    score,
    stretches,
    supporting_images,
)
from vggt_ros.pose_graph.inflation import Inflation
from vggt_ros.pose_graph.inlier_set import InlierSet, evaluate_inliers, solve_inliers, without_outliers
from vggt_ros.pose_graph.planar import PlanarGround
from vggt_ros.pose_graph.plausibility import SYSTEMATIC, plausible_hypothesis, refusals
from vggt_ros.pose_graph.spanning_tree import Index, SpanningTree
from vggt_ros.pose_graph.submaps import UNCONSTRAINED_COVARIANCE, Submaps

_LOG = logging.getLogger(__name__)
_MAX_LOOPS = 100
"""Most accepted loops in the graph: with more, the oldest quarter is settled, that is, absorbed into the overlap
factors."""
_SETTLED_COVARIANCE = 0.1
"""Factor on the covariances of the overlap factors that settled loops have corrected."""
_MIN_SUPPORTING_IMAGES = 2
"""Images that have to support the relative pose of two submaps that nothing else constrains."""
_SINGLE_STRETCH_TOLERANCE = 2.0
"""Loops of a single stretch of the trajectory may raise the chi-square of the overlap factors by this many gates: more
of them do not make it likelier that the trajectory is wrong, since places that are built alike agree all along."""

class LoopSelection:
    """Overlap factors, loops between their nodes, and which of the loops are accepted.

    Attributes:
        tree: the overlap factors, and the poses of the nodes.
        submaps: the submaps, which begin where the chain of overlap factors breaks.
        loops: the loops, in the order in which they came; each has whether it is accepted, and the reason.
        settled: how many accepted loops were settled, that is, absorbed into the overlap factors.
        log_scale: row to the logarithm of its scale, for rows whose scale is known from metric sources.
        ground: of a robot that drives on a plane; None if it is not known to do so.

    """

    def __init__(self, stride: int, largest_drift: float) -> None:
        """Begin empty; `stride` new nodes come with each window; the drift is a fraction of the path."""
        self._stride, self._largest_drift = stride, largest_drift
        self.tree, self.submaps = SpanningTree(), Submaps()
        self._inflation = Inflation()
        self.tree.inflation = self._inflation.factor
        self.tree.systematic = SYSTEMATIC[True] * largest_drift
        self.loops: list[Loop] = []
        self.settled = 0
        self.log_scale: dict[int, float] = {}
        self.ground: PlanarGround | None = None
        self._newest_settled_row = 0  # the newest row that a settled loop has corrected
        self._current = InlierSet((), np.zeros((0, 4, 4)), 0.0, np.zeros(0))

    @property
    def accepted(self) -> list[Loop]:
        """The accepted loops."""
        return [loop for loop in self.loops if loop.accepted]

    @property
    def components(self) -> list[int]:
        """For each submap, the oldest one that accepted loops connect it with."""
        return self.submaps.components(self.accepted)

    def expect_uncalibrated(self) -> None:
        """Expect the larger systematic errors of a camera without a calibration from now on."""
        self.tree.systematic = SYSTEMATIC[False] * self._largest_drift

    def passes_gate(self, loop: Loop) -> bool:
        """Return whether a loop is likely given the overlap factors and the accepted loops; if not, set its reason."""
        loop.reason, = refusals(self.tree, self.submaps, [loop], self.accepted, self._largest_drift)
        return not loop.reason

    def loops_to_accept(self, loop: Loop) -> list[Loop]:
        """Return a loop that passes the gate and those to accept with it; none, and set it pending, if it has to wait.

        Any loop passes the gate between submaps whose relative pose nothing constrains, so another one has to be
        consistent with it. False loops from perceptual aliasing may be consistent, too: later loops can still replace
        them.
        """
        label = self.submaps.constrained_components(self.accepted)
        ends = self._end_components(loop, label)
        if len(ends) == 1:
            return [loop]
        others = [other for other in self.loops if not other.accepted and other is not loop
                  and self._end_components(other, label) == ends]
        consistent = consistent_set(self.tree, loop, others)
        if supporting_images(consistent, self._stride) >= _MIN_SUPPORTING_IMAGES:
            return consistent
        loop.pending, loop.reason = True, ("waiting for a second consistent loop: nothing else constrains the relative "
                                           "pose of the two submaps")
        return []

    def accept(self, loops: Sequence[Loop]) -> None:
        """Accept loops: the first passes the gate, and the others are consistent with it.

        The solution with them may still reject some. If the first loop connects two components, the younger one is
        moved to where the loop measures it before.
        """
        loop, label, accepted = loops[0], self.components, self.accepted
        joins = label[self.submaps.of_row[loop.first_row]] != label[self.submaps.of_row[loop.second_row]]
        if joins:
            self.submaps.join(self.tree, label, loop)
        self._adopt(self._refine(self._solve([*accepted, *loops])))
        self._settle_oldest()
        if joins and loop.accepted:
            images = supporting_images([other for other in loops if other.accepted], self._stride)
            loop.reason = "joins two submaps" + (f", supported by {images} images" if images > 1 else "")
            self._reconsider_pending(self.submaps.constrained_components(self.accepted))
        if loop.accepted:  # it may support loops that were rejected before it came
            self.try_alternative(loop)

    def try_alternative(self, loop: Loop) -> None:
        """Test the hypothesis that the newest loop and rejected ones consistent with it are true; adopt it if it wins.

        It wins if the solution with them has a better score than the current one.

        Between two submaps that no loop connects yet, such loops contradict the break between them, which takes two
        independent clusters. Where loops have joined submaps, even a single loop may give a better hypothesis of their
        relative pose.
        """
        label = self.components
        ends = self._end_components(loop, label)
        rejected = [other for other in self.loops if not other.accepted and other is not loop
                    and self._end_components(other, label) <= ends]
        consistent = consistent_set(self.tree, loop, rejected)
        within = self.submaps.is_within_one(loop)
        if (len(consistent) < 2 and (within or loop.accepted)) or (
                len(ends) > 1 and len(stretches(consistent, self._stride)) < 2):
            return
        chosen = consistent + [other for other in consistent_set(self.tree, loop, self.accepted) if other is not loop]
        chosen = plausible_hypothesis(self.tree, self.submaps, chosen, self._largest_drift, self._stride)
        if loop not in chosen:
            return
        if score(chosen, np.zeros(0), 0.0, self._stride) <= self._current.score:  # the upper bound of its score
            return
        break_edge = self._release_break(max(ends)) if len(ends) > 1 else None
        initial = None if within else self.submaps.joined_poses(self.tree.poses, range(len(label)), chosen)
        alternative = without_outliers(self._solve(chosen, initial), self._solve)
        if loop in alternative.loops and alternative.score > self._current.score:
            alternative = self._refine(alternative)
        is_better = loop in alternative.loops and alternative.score > self._current.score
        if is_better and len(stretches([other for other in alternative.loops if not other.accepted], self._stride)) < 2:
            strain = alternative.chain_chi2 - self._current.chain_chi2
            is_better = strain <= _SINGLE_STRETCH_TOLERANCE * CHI2_GATE
        if is_better:
            self._adopt(alternative)
            if break_edge is not None:
                self.submaps.break_parent[max(ends)] = -1
        elif break_edge is not None:
            self.tree.replace_edges(*break_edge)

    def reevaluate(self) -> None:
        """Recompute the residuals of the accepted loops at the tree's poses."""
        self._adopt(self._evaluate(self._current.loops))

    def solve(self) -> None:
        """Solve again with the accepted loops and the ground, and reclassify them; without any, keep the poses."""
        if self._current.loops or self.ground is not None:
            self._adopt(self._refine(self._solve(self._current.loops)))
        else:
            self.reevaluate()

    def restore(self, poses: Array) -> None:
        """Restore poses (n, 4, 4), with the loops accepted or rejected as they are marked."""
        self.tree.set_poses(poses)
        self._adopt(self._evaluate(self.accepted))

    def marginalize(self, rows: Index) -> list[int]:
        """Marginalize all rows but the given ones and those that branches need; see `SpanningTree.marginalized`.

        The given rows have to include those in which loops end and submaps begin. Return the rows left, which are
        renumbered in that order.
        """
        self.tree, kept = self.tree.marginalized(rows)
        row = dict(zip(kept, range(len(kept)), strict=True))
        self.submaps.of_row = [self.submaps.of_row[old] for old in kept]
        self.submaps.anchor_row = [row[old] for old in self.submaps.anchor_row]
        self.submaps.reach = {submap: (row[old], radius) for submap, (old, radius) in self.submaps.reach.items()}
        self.log_scale = {row[old]: log for old, log in self.log_scale.items() if old in row}
        for loop in self.loops:
            loop.first_row, loop.second_row = row[loop.first_row], row[loop.second_row]
        self._newest_settled_row = int(np.searchsorted(kept, self._newest_settled_row, side="right")) - 1
        return kept

    def _reconsider_pending(self, label: Sequence[int]) -> None:
        """Decide on the pending loops between submaps whose relative pose is constrained by now."""
        for loop in [loop for loop in self.loops if loop.pending and self._is_constrained(loop, label)]:
            loop.pending = False
            if loop.accepted:
                continue
            if self.passes_gate(loop):
                self.accept([loop])
            else:
                self.try_alternative(loop)

    def _is_constrained(self, loop: Loop, label: Sequence[int]) -> bool:
        """Return whether the graph without a loop constrains the relative pose of its submaps, or both are the same."""
        return len(self._end_components(loop, label)) == 1

    def _end_components(self, loop: Loop, label: Sequence[int]) -> set[int]:
        return {label[self.submaps.of_row[row]] for row in (loop.first_row, loop.second_row)}

    def _release_break(self, submap: int) -> tuple[Index, Array, Array]:
        """Make the break before a submap unconstrained; return the arguments of `replace_edges` that restore it."""
        root = np.array([self.submaps.anchor_row[submap]])
        measured, covariance = self.tree.parent_edges(root)
        before = (root, measured, covariance.copy())
        self.tree.replace_edges(root, measured, UNCONSTRAINED_COVARIANCE[None])
        return before

    def _solve(self, loops: Sequence[Loop], initial: Array | None = None) -> InlierSet:
        """Return the solution with loops; the current one if that is not finite, since nothing would mend the map."""
        with contextlib.suppress(np.linalg.LinAlgError, RuntimeError), np.errstate(invalid="ignore", over="ignore"):
            found = solve_inliers(self.tree, self.submaps.of_row, loops, self._stride, self.log_scale, initial,
                                  self.ground)
            if all(np.isfinite(part).all() for part in (found.poses, found.chain_chi2, found.residuals_chi2)):
                return found
        _LOG.error("the pose graph has no finite solution with %d loops; the new ones are not used", len(loops))
        return self._evaluate(self._current.loops)

    def _evaluate(self, loops: Sequence[Loop]) -> InlierSet:
        return evaluate_inliers(self.tree, self.submaps.of_row, loops, self._stride, self.tree.poses.copy())

    def _refine(self, found: InlierSet) -> InlierSet:
        """Return a solution without the loops that are outliers in it, and with the rejected ones that now fit."""
        found = without_outliers(found, self._solve)
        label = self.submaps.constrained_components(found.loops)
        others = [loop for loop in self.loops if loop not in found.loops and self._is_constrained(loop, label)]
        near = [loop for loop, chi2 in zip(others, residual_chi2(found.poses, others), strict=True)
                if chi2 <= 10 * CHI2_GATE]
        if not near:
            return found
        before = self.tree.poses.copy()
        self.tree.set_poses(found.poses)
        fitting = [loop for loop, reason
                   in zip(near, refusals(self.tree, self.submaps, near, found.loops, self._largest_drift), strict=True)
                   if not reason]
        if fitting:
            larger = without_outliers(self._solve([*found.loops, *fitting]), self._solve)
            found = larger if larger.score > found.score else found
        self.tree.set_poses(before)
        return found

    def _adopt(self, found: InlierSet) -> None:
        """Make a solution the current one: set the poses, the loops' states, and the inflation."""
        for loop in self.loops:
            before, loop.accepted = loop.accepted, loop in found.loops
            if loop.accepted:
                loop.reason = "consistent with the map"
            elif before:
                loop.reason = "inconsistent with later loops"
        self._current = found
        self.tree.set_poses(found.poses)
        self.tree.inflation = self._inflation.estimate(found.chain_chi2, len(found.loops))

    def _settle_oldest(self) -> None:
        """Absorb the oldest loops into the overlap factors, and drop old rejected ones, to bound the problem's size.

        Overlap factors that settled loops have corrected get smaller covariances, so that later loops correct the newer
        part of the trajectory. The inflation of the other covariances, estimated from all loops so far, becomes the
        prior.
        """
        accepted = self._current.loops
        within = [loop for loop in accepted if self.submaps.is_within_one(loop)]
        if len(within) <= _MAX_LOOPS:
            return
        settled = sorted(within, key=lambda loop: loop.id)[: _MAX_LOOPS // 4]
        rejected = [loop for loop in self.loops if not loop.accepted][: -_MAX_LOOPS]
        removed = {loop.id for loop in (*settled, *rejected)}
        left = tuple(loop for loop in accepted if loop.id not in removed)
        self.loops = [loop for loop in self.loops if loop.id not in removed]
        self.settled += len(settled)
        self._inflation.settle(len(accepted), len(left))
        newest = max(max(loop.first_row, loop.second_row) for loop in settled)
        self.tree.scale_edge_covariance(np.arange(self._newest_settled_row + 1, newest + 1), _SETTLED_COVARIANCE)
        self._newest_settled_row = max(self._newest_settled_row, newest)
        self.tree.replace_chain(self.tree.poses.copy(), self.tree.poses.copy())
        self._adopt(self._evaluate(left))
