"""
Dashboards for Grafana, as data (BOARDS); grafana.py makes Grafana's JSON of them. One file a dashboard.
"""

from trainvitals_monitor.generate.dashboards.board import Board
from trainvitals_monitor.generate.dashboards.checkpoints import CHECKPOINTS
from trainvitals_monitor.generate.dashboards.lora import LORA
from trainvitals_monitor.generate.dashboards.moe import MOE
from trainvitals_monitor.generate.dashboards.monitor_health import MONITOR
from trainvitals_monitor.generate.dashboards.overview import OVERVIEW
from trainvitals_monitor.generate.dashboards.run import RUN_BOARD

BOARDS: tuple[Board, ...] = (OVERVIEW, RUN_BOARD, MOE, LORA, CHECKPOINTS, MONITOR)
