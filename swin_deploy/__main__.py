"""``python -m swin_deploy`` is ``swin-deploy``."""

from swin_deploy.cli import main

main()
