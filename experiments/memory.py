"""How much memory a process took at most, from a moment on."""

import resource
import sys
from pathlib import Path


def forget_peak() -> None:
    """
    From now on [`peak_megabytes`] counts anew. A process begins with the peak of the one that started it, so without
    this what a small piece of work takes would go unseen.
    """
    if (switch := Path("/proc/self/clear_refs")).exists():  # Linux; elsewhere the peak is of the whole process
        switch.write_text("5")


def peak_megabytes() -> float:
    """Resident memory at its largest, in MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
