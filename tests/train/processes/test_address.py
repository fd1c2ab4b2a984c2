"""Where the processes of a job meet, by environment variables."""

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.processes.address import (
    COORDINATOR,
    PROCESS,
    PROCESSES,
    TIMEOUT,
    GroupAddress,
    found_by_jax,
    group_address,
)
from tests.support.errors import assert_user_error


def env(coordinator="10.0.0.1:8476", processes="4", process="3", **more):
    return {
        COORDINATOR: coordinator,
        PROCESSES: processes,
        PROCESS: process,
        **more,
    }


def test_the_address_is_read_from_the_environment():
    assert group_address({}) is None and group_address({TIMEOUT: "9"}) is None
    assert group_address(env()) == GroupAddress("10.0.0.1:8476", 4, 3, 120)
    assert group_address(env("[::1]:80", "1", "0", **{TIMEOUT: "9"})) == GroupAddress(
        "[::1]:80", 1, 0, 9
    )


@pytest.mark.parametrize(
    "given, field, remedy",
    [
        (env(process=""), PROCESS, f"set {COORDINATOR}=host:port"),
        ({PROCESSES: "2"}, COORDINATOR, f"set {COORDINATOR}=host:port"),
        (env(process="4"), PROCESS, "from 0 to 3"),
        (env(processes="0", process="0"), PROCESSES, "at least 1"),
        (env(processes="two"), PROCESSES, f"{PROCESSES}=2"),
        (env(process="-1"), PROCESS, f"{PROCESS}=2"),
        (env("10.0.0.1"), COORDINATOR, "10.0.0.1:8476"),
        (env(":80"), COORDINATOR, "10.0.0.1:8476"),
        (env("host:99999"), COORDINATOR, "10.0.0.1:8476"),
        (env(**{TIMEOUT: "1 min"}), TIMEOUT, f"{TIMEOUT}=2"),
    ],
)
def test_an_address_that_cannot_be_is_refused(given, field, remedy):
    with pytest.raises(UserError) as raised:
        group_address(given)
    assert_user_error(raised, field=field, remedy=remedy)


@pytest.mark.parametrize(
    "given, found",
    [
        ({}, False),
        (env(), False),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, True),
        (env(TPU_WORKER_HOSTNAMES="t1v-0,t1v-1"), False),
        (env(MEGASCALE_COORDINATOR_ADDRESS="t1v-0"), True),
        ({PROCESSES: "auto"}, True),
    ],
)
def test_jax_finds_the_hosts_of_tpu_slices(given, found):
    assert found_by_jax(given) == found
