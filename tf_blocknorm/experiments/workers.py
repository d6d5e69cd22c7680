"""Several runs side by side, each in a process of its own.

A small network keeps about one core busy, however many there are; two runs on two cores take
little longer than one.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from concurrent.futures.process import BrokenProcessPool

from tf_blocknorm.experiments import records
from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm_cli import start_worker

# TensorFlow keeps some hundred megabytes of every run; after so many, processes begin anew.
RUNS_PER_PROCESS = 6

_messages = None  # In a worker process: the queue to the parent.


def train_all(runs, out, jobs, command, progress):
    """Train all runs, `jobs` at a time.

    Ctrl-C (KeyboardInterrupt) ends the workers at once; what they had saved stays on disk.

    Args:
        runs: List of `Run`s.
        out: The folder of all runs.
        jobs: How many runs go on at the same time.
        command: The command line, for the record.
        progress: Has `epoch(run, done, record)`, also called at the start with `done=0` and no
            record, and `finished(run, summary)`.
    """
    # Not `max_tasks_per_child`, with which the pool can hang (python/cpython#115634).
    at_once = jobs * RUNS_PER_PROCESS
    for start in range(0, len(runs), at_once):
        _train_some(runs[start : start + at_once], out, jobs, command, progress)


def _train_some(runs, out, jobs, command, progress):
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    threads = max(1, records.cores() // jobs)
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs,
        mp_context=context,
        initializer=start_worker,
        initargs=(f"{__name__}:initialize", messages, threads),
    )
    try:
        with _interrupts_ignored():  # The workers inherit this: the parent alone answers Ctrl-C.
            futures = {
                pool.submit(_train, index, run, out, command): run for index, run in enumerate(runs)
            }
        waiting = set(futures)
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, timeout=0.2)
            _pass_on(messages, runs, progress)
            for future in done:
                progress.finished(futures[future], future.result())
    except BrokenProcessPool as error:
        raise ExperimentError(
            "A training process died, perhaps for want of memory; try `--jobs 1`. "
            "What was finished is kept: the same command continues."
        ) from error
    finally:
        # Waiting for TensorFlow to leave of its own accord takes seconds.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _pass_on(messages, runs, progress):
    with contextlib.suppress(queue.Empty):
        while True:
            index, done, record = messages.get_nowait()
            progress.epoch(runs[index], done, record)


@contextlib.contextmanager
def _interrupts_ignored():
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread gets, and may ignore, interrupts.
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def initialize(messages, threads):
    """Prepare a worker process."""
    global _messages
    _messages = messages
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import tensorflow as tf

    # It warns of new traces, of which every run needs its own.
    tf.get_logger().setLevel("ERROR")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _train(index, run, out, command):
    from tf_blocknorm.experiments import runner

    _messages.put((index, 0, None))
    return runner.train(
        run, out, command, lambda done, record: _messages.put((index, done, record))
    )
