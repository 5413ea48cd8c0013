"""The controller: registers peers, hands out ids, queues and routes calls, notices deaths.

`_state` decides and is pure; `_shell` does what it says; `__main__` starts it.
"""
