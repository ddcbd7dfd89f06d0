"""What all sessions of ONNX Runtime have in common."""

from __future__ import annotations

from typing import Any


def options(*, threads: int = 0) -> Any:
    """Return options of a quiet session that leaves the cores alone between its runs.

    Args:
        threads: That a run takes; 0 for ONNX Runtime's choice.
    """
    import onnxruntime

    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.log_severity_level = 3  # its warnings go to stderr past every setting of ours
    # Its threads would spin for up to hundreds of milliseconds on the cores that others work, or are timed, on.
    made.add_session_config_entry("session.force_spinning_stop", "1")
    return made
