"""The engine: one namespace, one event loop, calls in arrival order.

`_state` decides what runs next and is pure; `_runner` runs it, step by step (`_steps`) in the namespace
(`_namespace`); `_outbox` sends everything that leaves; `_shell` holds them together.
"""
