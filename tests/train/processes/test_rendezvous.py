"""Processes that meet before jax groups them; here each is a thread."""

import contextlib
import os
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stepladder.train.processes import rendezvous
from stepladder.train.processes.rendezvous import Verdict, meet
from tests.support.processes import free_port


@pytest.fixture(autouse=True)
def a_short_farewell(monkeypatch):
    monkeypatch.setattr(rendezvous, "FAREWELL", 1.0)


def meet_all(stopping, processes=3, numbers=None, timeout=20.0, late=0.0):
    """The verdict of every process; `stopping` maps a process to the status of its signal.
    Process 0 starts `late` seconds after the others.
    """
    address = f"localhost:{free_port()}"
    numbers = range(processes) if numbers is None else numbers

    def one(number):
        if number == 0:
            time.sleep(late)
        return meet(address, processes, number, timeout, stopping.get(number, lambda: 0))

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


def test_all_that_come_form_a_group():
    assert meet_all({}) == [Verdict()] * 3


@pytest.mark.parametrize("numbers", [[0, 1], [0, 1, 2]], ids=["one is to come", "all are there"])
@pytest.mark.parametrize("number, status", [(0, 143), (1, 143), (0, 130), (1, 130)])
def test_one_that_is_told_to_stop_ends_all_with_its_status(number, status, numbers):
    verdicts = meet_all({number: lambda: status}, numbers=numbers)
    assert {v.status for v in verdicts} == {status}
    assert all(v.why.startswith(f"process {number} was told to stop") for v in verdicts)


@pytest.mark.parametrize("late", [0.0, 0.7], ids=["together", "process 0 later"])
def test_one_that_never_comes_is_waited_for_until_the_time_is_over(late, monkeypatch):
    """Process 1 waits for the answer of process 0 beyond its own time."""
    monkeypatch.setattr(rendezvous, "FAREWELL", 10.0)
    verdicts = meet_all({}, processes=4, numbers=[0, 1], timeout=1.0, late=late)
    assert {v.status for v in verdicts} == {143}
    assert all(v.why.startswith("processes 2, 3 did not come to ") for v in verdicts)


def test_no_answer_of_process_0_is_waited_for_until_the_time_is_over():
    assert meet_all({}, numbers=[1], timeout=1.0) == [None]


def test_a_number_given_twice_is_refused():
    verdicts = meet_all({}, numbers=[0, 1, 1])
    assert {v.status for v in verdicts} == {1}
    assert all(v.why.startswith("process 1: two processes say") for v in verdicts)


def test_a_number_that_is_not_of_the_job_is_refused():
    verdicts = meet_all({}, numbers=[0, 1, 7])
    assert {v.status for v in verdicts} == {1}
    assert all(v.why.startswith("process 7: there is no such process") for v in verdicts)


def test_more_than_1024_files_may_be_open():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1100):
                stack.enter_context(open(os.devnull))
            assert meet_all({}) == [Verdict()] * 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_that_goes_away_ends_the_others():
    """A connection that closes is a process that is gone; a stranger's is not."""
    port, verdicts = free_port(), []

    def leader():
        verdicts.append(meet(f"localhost:{port}", 3, 0, 20.0, lambda: 0))

    thread = threading.Thread(target=leader)
    thread.start()
    strangers = (b"GET / HTTP/1.1\n", b'{"process": "1"}\n', b'{"other": 1}\n')
    for text in (*strangers, b'{"process": 2, "stop": 0}\n'):
        end = time.monotonic() + 10
        while True:
            try:
                connection = socket.create_connection(("localhost", port), timeout=2)
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.02)
        connection.sendall(text)
        time.sleep(0.3)
        connection.close()
    late = meet(f"localhost:{port}", 3, 1, 20.0, lambda: 0)
    thread.join()
    assert verdicts[0] == late and late.status == 143 and late.why.startswith("process 2 is lost")
