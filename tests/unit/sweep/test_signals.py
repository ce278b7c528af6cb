import os
import signal
import threading

import pytest

from chinchilla.sweep.signals import WARNINGS, block_warnings, stop_on_signals, warning_seconds


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *WARNINGS])
def test_a_signal_sets_the_flag_and_handlers_are_restored(signum: int):
    before = signal.getsignal(signum)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), signum)
        assert stop
        assert stop.seen == {signum}
    assert signal.getsignal(signum) is before


def test_a_signal_is_acknowledged_at_once_and_only_the_first(capfd: pytest.CaptureFixture):
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (
            capfd.readouterr().err == "SIGTERM received: stopping after the current micro-batch\n"
        )


def test_a_second_ctrl_c_interrupts():
    with stop_on_signals(), pytest.raises(KeyboardInterrupt):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_other_threads_the_flag_is_never_set():
    seen = []

    def body() -> None:
        with stop_on_signals() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize(
    ("signum", "ended_by"), [(signal.SIGUSR1, 0), (signal.SIGUSR2, 0), (signal.SIGTERM, 15)]
)
def test_a_forked_helper_ignores_warnings_and_dies_of_other_signals(signum: int, ended_by: int):
    with stop_on_signals() as stop:
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signum)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == ended_by
        assert not stop


@pytest.mark.parametrize("signum", WARNINGS)
def test_a_blocked_warning_is_delivered_later(signum: int):
    with stop_on_signals() as outer:
        with block_warnings():
            # To this thread: the process may have others, and any of them would take it.
            signal.pthread_kill(threading.get_ident(), signum)
            assert not outer
            with stop_on_signals() as stop:  # as the new program does, once it is there
                assert stop.seen == {signum}
        assert not outer
        os.kill(os.getpid(), signum)
        assert outer


def test_a_warning_at_the_end_of_a_process_does_not_kill_it():
    before = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        with stop_on_signals():
            pass
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_job_is_warned_three_minutes_or_a_quarter_of_its_limit_before_its_end():
    assert [warning_seconds(60 * m) for m in (2, 10, 240)] == [30, 150, 180]
