"""
The monitor's HTTP routes, one file a concern; ROUTERS is what the application is made of.
"""

from trainvitals_monitor.routes import forms, frames, health, mutes, pages, query, self_metrics

ROUTERS = (
    frames.router,
    query.router,
    mutes.router,
    forms.router,
    health.router,
    self_metrics.router,
    pages.router,
)

__all__ = ["ROUTERS"]
