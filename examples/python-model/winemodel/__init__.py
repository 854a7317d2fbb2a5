"""Tells a wine's cultivar from its chemical analysis.

`model` is the arithmetic and `serve` the HTTP service; both run in production
with numpy alone. How the weights come about is the business of `training`,
which never leaves the development image.
"""
