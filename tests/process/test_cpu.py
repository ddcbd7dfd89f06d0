from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tlopt.process import cpu

V2 = "0::/kubepods/pod1/box\n"
V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "5:cpuset:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n"
V1_MOUNT = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Pretend that a process with 8 cores of affinity runs on a machine with these files."""
    for name in (cpu.SPIN_VARIABLE, "OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def made(*, cgroup: str = "", mounts: str = "", **files: str) -> None:
        texts = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        cpu._whole_quotas.cache_clear()

    monkeypatch.setattr(cpu, "ROOT", tmp_path)
    monkeypatch.setattr(cpu, "affinity", lambda: 8)
    cpu._whole_quotas.cache_clear()
    yield made
    cpu._whole_quotas.cache_clear()


def test_without_control_groups_the_affinity_counts(machine):
    assert cpu.cores() == 8
    machine(cgroup=V2, mounts=V2_MOUNT)
    assert cpu.cores() == 8


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_quota_of_version_2_counts_in_whole_cores(machine, quota, expected):
    machine(cgroup=V2, mounts=V2_MOUNT, **{"sys/fs/cgroup/kubepods/pod1/box/cpu.max": quota})
    assert cpu.cores() == expected


def test_the_smallest_quota_on_the_way_up_counts(machine):
    groups = "sys/fs/cgroup/kubepods/"
    machine(
        cgroup=V2, mounts=V2_MOUNT,
        **{f"{groups}pod1/box/cpu.max": "600000 100000", f"{groups}pod1/cpu.max": "300000 100000",
           f"{groups}cpu.max": "max 100000"},
    )  # fmt: skip
    assert cpu.cores() == 3


def test_a_quota_at_the_root_of_a_containers_own_view_counts(machine):
    machine(cgroup="0::/\n", mounts=V2_MOUNT, **{"sys/fs/cgroup/cpu.max": "200000 100000"})
    assert cpu.cores() == 2


@pytest.mark.parametrize("root", ["/", "/docker/x"])
def test_a_quota_of_version_1_counts(machine, root):
    place = "sys/fs/cgroup/cpu,cpuacct" + ("/docker/x" if root == "/" else "")
    machine(
        cgroup=V1, mounts=V1_MOUNT.format(root=root),
        **{f"{place}/cpu.cfs_quota_us": "400000\n", f"{place}/cpu.cfs_period_us": "100000\n"},
    )  # fmt: skip
    assert cpu.cores() == 4


@pytest.mark.parametrize("text", ["-1", "", "many"])
def test_no_quota_of_version_1_is_no_quota(machine, text):
    place = "sys/fs/cgroup/cpu,cpuacct/docker/x"
    mounts = V1_MOUNT.format(root="/")
    machine(cgroup=V1, mounts=mounts, **{f"{place}/cpu.cfs_quota_us": text, f"{place}/cpu.cfs_period_us": "100000"})
    assert cpu.cores() == 8


def test_damaged_files_are_no_quota(machine):
    machine(cgroup="nonsense\n", mounts="nonsense - x\n")
    assert cpu.cores() == 8


def test_a_quota_limits_the_threads_of_openmp_before_torch_is_imported(machine, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    machine(cgroup=V2, mounts=V2_MOUNT, **{"sys/fs/cgroup/kubepods/pod1/box/cpu.max": "200000 100000"})
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cpu.share_cores()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv(cpu.SPIN_VARIABLE)
    cpu.share_cores()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert os.environ[cpu.SPIN_VARIABLE] == cpu.SPINS
    assert cpu.waiting() == f"{cpu.SPIN_VARIABLE}={cpu.SPINS}"


def test_what_the_user_says_about_waiting_stays(machine, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    cpu.share_cores()
    assert cpu.SPIN_VARIABLE not in os.environ
    assert cpu.waiting() == "OMP_WAIT_POLICY=ACTIVE"


@pytest.mark.parametrize("adapts", [True, False])
def test_where_the_kernel_does_not_tell_who_waits_a_fixed_number_is_set(adapts, machine, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(cpu, "can_adapt", lambda: adapts)
    cpu.share_cores()
    assert os.environ.get(cpu.SPIN_VARIABLE) == (None if adapts else cpu.SPINS)
    assert ("sleeps beside other programs" in cpu.waiting()) is adapts


@pytest.mark.parametrize("adapts", [True, False])
def test_after_torch_nothing_is_set_and_the_conditions_say_so(adapts, machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", sys)
    monkeypatch.setattr(cpu, "can_adapt", lambda: adapts)
    cpu.share_cores()
    assert cpu.SPIN_VARIABLE not in os.environ
    assert cpu.waiting() == ("spins alone, sleeps beside other programs" if adapts else "OpenMP's default")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, tlopt; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
