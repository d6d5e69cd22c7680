"""Runs that are killed and go on."""

import pytest

from tf_blocknorm.experiments import runner


def whole_and_resumed(run, folder, monkeypatch, epoch):
    """The summaries of a run, and of the same run killed at the end of an epoch and resumed."""
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole = runner.train(run, folder / "whole")

    def die(done, record):
        if done == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.train(run, folder / "parts", report=die)
    return whole, runner.train(run, folder / "parts")
