"""The machine's load during a run, as MLflow measures it: processor, memory, disk, network, GPUs."""

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

SYSTEM = "system/"  # what MLflow's page of system metrics looks for
_SECONDS = 10.0  # between two points, MLflow's default


class SystemMetrics:
    """A thread that measures every 10 s, or MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL, and hands on what it measured.

    MLflow's own SystemMetricsMonitor would send it itself, and stop for good at the first failure of the server.
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns it off. Steps count the points from `first_step` on.
    """

    def __init__(self, log: Callable[[Mapping[str, float], int], None], *, first_step: int) -> None:
        self._log = log
        self._step = first_step
        self._stopped = threading.Event()
        self._monitors: list[BaseMetricsMonitor] = []
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() in {"false", "0"}:
            return
        self._monitors = _monitors()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Measure a last time."""
        if self._monitors:
            self._stopped.set()
            self._thread.join()

    def _work(self) -> None:
        seconds = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or _SECONDS)
        while True:
            is_last = self._stopped.wait(seconds)
            self._measure()
            if is_last:
                return

    def _measure(self) -> None:
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()  # type: ignore[no-untyped-call]
            values = monitor.aggregate_metrics()  # type: ignore[no-untyped-call]
            metrics |= {f"{SYSTEM}{name}": float(value) for name, value in values.items()}
            monitor.clear_metrics()  # type: ignore[no-untyped-call]
        self._log(metrics, self._step)
        self._step += 1


def _monitors() -> "list[BaseMetricsMonitor]":
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors: list[BaseMetricsMonitor] = []
    for monitor in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor):
        try:
            monitors.append(monitor())
        except (ImportError, RuntimeError, OSError, AttributeError):  # no such GPU, library or counter here
            continue
    return monitors
