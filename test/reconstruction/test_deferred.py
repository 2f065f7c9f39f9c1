"""The proxy of a reconstructor that is created on another thread, and again when it is lost."""

import logging

import numpy as np
import pytest
from staged_reconstructors import Staged

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorLost
from vggt_ros.reconstruction.deferred import FAILED, LOADING, READY, DeferredReconstructor
from vggt_ros.windows.keyframe import Keyframe, Window

WINDOW = Window(0, tuple(Keyframe(i, 0, np.zeros((2, 3, 3), np.uint8), np.eye(3)) for i in range(2)))


class Losing(Staged):
    """Is lost at its first `losses` windows, over all instances."""

    losses = 0
    states: list[str]

    def reconstruct(self, window):
        if Losing.losses:
            Losing.losses -= 1
            raise ReconstructorLost("CUDA error: an illegal memory access was encountered")
        return super().reconstruct(window)

    def close(self):
        self.closed = True


@pytest.fixture(name="deferred")
def _deferred():
    """A loaded proxy, with what it has created, and its state and detail whenever it created one."""
    made, states = [], []

    def create(config, progress):
        progress("loading the weights, 50 %")
        states.append((deferred.state, deferred.detail))
        made.append(Losing())
        return made[-1], "vggt, for a test"

    deferred = DeferredReconstructor(create, Config())
    deferred.made, deferred.states = made, states
    assert deferred.state == LOADING and not deferred.was_ready
    deferred.load()
    assert deferred.state == READY and deferred.was_ready
    yield deferred
    Losing.losses = 0


def test_a_lost_reconstructor_is_created_again_and_no_window_is_lost(deferred, caplog):
    """Meanwhile it is FAILED with the reason; it is prepared for the same images, and the old one is closed first."""
    deferred.prepare(28, 14)
    Losing.losses = 1
    assert deferred.reconstruct(WINDOW).keyframe_ids == (0, 1)
    assert deferred.states[1] == (FAILED, "the reconstructor was lost: CUDA error: an illegal memory access was "
                                          "encountered; created again: loading the weights, 50 %")
    assert (deferred.state, deferred.detail, deferred.reloads) == (READY, "vggt, for a test", 1)
    assert len(deferred.made) == 2 and deferred.made[0].closed and deferred.made[1].prepared == "28x14"
    assert any("it is created again" in message for message in caplog.messages)


def test_after_losses_in_a_row_it_stays_failed(deferred):
    """One more in three windows, then none of them is tried."""
    Losing.losses = 2
    with pytest.raises(RuntimeError, match="the window was given up, because the reconstructor was lost twice"):
        deferred.reconstruct(WINDOW)
    assert deferred.state == READY
    Losing.losses = 1
    with pytest.raises(RuntimeError, match="3 times in a row and is not created again"):
        deferred.reconstruct(WINDOW)
    assert deferred.state == FAILED and len(deferred.made) == 3
    with pytest.raises(RuntimeError, match="illegal memory access"):
        deferred.reconstruct(WINDOW)
    assert deferred.image_size(Camera.assumed(28, 14, 60.0)) == (28, 14), "images are still tracked"


def test_losses_that_are_far_apart_are_all_recovered(deferred):
    for _ in range(5):
        Losing.losses = 1
        deferred.reconstruct(WINDOW)
    assert deferred.reloads == 5 and deferred.state == READY


def test_a_loss_that_cannot_be_recovered_says_both_reasons(deferred):
    def create(config, progress):
        raise ReconstructorLost("the context of the GPU is lost (CUDA error: unknown error)")

    deferred._factory, Losing.losses = create, 1
    with pytest.raises(RuntimeError, match="no reconstructor: the context of the GPU is lost"):
        deferred.reconstruct(WINDOW)
    assert deferred.state == FAILED


def test_errors_of_the_preparation_are_a_problem_and_not_more(deferred, caplog):
    deferred.prepare(14, 14)
    assert deferred.problem == "not prepared for images of 14x14: two images do not fit"
    assert deferred.state == READY and deferred.detail == "vggt, for a test"
    assert any("two images do not fit" in record.message for record in caplog.records
               if record.levelno == logging.ERROR)
    deferred.prepare(28, 14)
    assert deferred.problem == ""


def test_a_loss_in_the_preparation_is_recovered(deferred):
    """Until it has happened three times in a row."""
    deferred.prepare(15, 14)
    assert deferred.state == FAILED and len(deferred.made) == 3


def test_refusals_pass_and_closing_is_not_a_loss(deferred):
    refusing = Window(0, tuple(Keyframe(Staged.REFUSE + i, 0, np.zeros((2, 3, 3), np.uint8), np.eye(3))
                               for i in range(2)))
    with pytest.raises(ReconstructionRefused):
        deferred.reconstruct(refusing)
    deferred.cancel()
    Losing.losses = 1
    with pytest.raises(RuntimeError, match="illegal memory access"):
        deferred.reconstruct(WINDOW)
    assert len(deferred.made) == 1
    deferred.prepare(28, 14)  # without effect
    assert deferred.made[0].prepared == ""
