"""
What the environment asks of the agent, checked before the program trains.
"""

from __future__ import annotations

import os

from trainvitals.contract_file import read_contract
from trainvitals.link import MonitorLink
from trainvitals.settings import SETTING_BY_NAME, resolve


def check_environment() -> None:
    """What `attach` would refuse at the first step is better refused now. Raises BadSetting."""
    settings = resolve({})
    if settings.contract:
        read_contract(settings.contract)
        # The program may change its folder before it attaches.
        os.environ[SETTING_BY_NAME["contract"].environment] = os.path.abspath(settings.contract)
    if not settings.to_folder:
        MonitorLink(settings)
