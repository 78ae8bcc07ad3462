"""
What Prometheus and Alertmanager are given: rules, their tests, and configurations, made from the catalogues.
"""
