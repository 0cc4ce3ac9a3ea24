"""The console script, and ``python -m swin_deploy``.

Nothing is imported before interrupts are listened to: the rest takes a moment.
"""

import os
import sys


def main() -> None:
    """Run the command line, and leave with its status."""
    try:
        from exporters import signals

        signals.leave_at_once()
        signals.ignore_at_exit()
        from swin_deploy.cli import main as run
    except KeyboardInterrupt:  # before they are
        os.write(2, b"interrupted; nothing half-written is left\n")
        os._exit(130)
    try:
        signals.unwind()
        run()
    except KeyboardInterrupt as err:  # beside the command itself
        line, status = signals.farewell(err)
        os.write(2, f"{line}\n".encode())
        sys.exit(status)
    finally:
        signals.leave_at_once()


if __name__ == "__main__":
    main()
