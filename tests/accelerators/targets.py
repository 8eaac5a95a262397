"""Accelerators that are not there, and their compilers. No JAX before `prepare`.

A compiler is a wheel that JAX finds on the path, beside the environment that runs this;
no driver and no accelerator is needed to compile.
"""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

# What the compiler asks of the device: NVIDIA's published figures of an H100 SXM5 with
# 80 GB, in the format of XLA's GpuTargetConfigProto.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
}
"""


class Target(NamedTuple):
    """An accelerator.

    Attributes:
      name: of the target, as `v5e:2x2` or `h100`.
      family: `tpu` or `cuda`.
      gigahertz: the clock of the compiler's estimates; None where it gives none.
    """

    name: str
    family: str
    gigahertz: float | None

    @property
    def platform(self) -> str:
        """The kind of its devices, as JAX calls it."""
        return "gpu" if self.family == "cuda" else "tpu"

    def devices(self) -> list[Any]:
        """Its devices, for which programs can be compiled and never run."""
        from jax.experimental import topologies

        if self.family == "cuda":
            description = topologies.get_topology_desc(
                platform="cuda", target_config=H100, topology="1 x 1 x 4"
            )
        else:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=self.name
            )
        return description.devices

    def packages(self) -> list[str]:
        """The compiler's wheels, at the versions that belong to the JAX there is."""
        if self.family == "cuda":
            version = importlib.metadata.version("jax")
            return [f"jax-cuda13-{part}=={version}" for part in ("plugin", "pjrt")]
        wanted = importlib.metadata.requires("jax") or []
        return [each.split(";")[0] for each in wanted if re.match("libtpu", each)]


# Clocks of the TensorCores: 197 and 918 Tflop/s in bfloat16 of 4 and 8 units of
# 128 x 128 and 256 x 256; the others have no clock here, and so no estimate.
CLOCKS = {"v5e": 1.5}


def named(name: str) -> Target:
    """The target of that name; of TPUs `VERSION:SHAPE`.

    Raises:
      ValueError: there is none.
    """
    if name == "h100":
        return Target(name, "cuda", None)
    if not re.fullmatch(r"v\d[a-z]*:\d+(x\d+)*", name):
        raise ValueError(f"--target must be h100 or a TPU as v5e:2x2, got {name!r}")
    return Target(name, "tpu", CLOCKS.get(name.split(":")[0]))


def prepare(target: Target, folder: pathlib.Path | None) -> None:
    """Puts the compiler on the path, and downloads it first where it is not there.

    Args:
      target: whose compiler.
      folder: where it is or is to be; None is a folder of the user's cache.
    """
    packages = target.packages()
    if folder is None:
        cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
        version = f"{target.family}-jax{importlib.metadata.version('jax')}"
        folder = pathlib.Path(cache) / "svdrnn" / "compilers" / version
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole.
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            part = pathlib.Path(scratch) / "part"
            words = ["-m", "pip", "install", "-q", "--no-deps", "--target", str(part)]
            subprocess.run([sys.executable, *words, *packages], check=True)
            part.rename(folder)
    sys.path.insert(0, str(folder))
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Else the TPU's library asks the network for the machine that it is on.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_MIN_LOG_LEVEL": "3",
    }
