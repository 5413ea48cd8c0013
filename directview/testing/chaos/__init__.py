"""Chaos: real clusters, faults at random, and a workload that checks its own answers.

::

    python -m directview.testing.chaos --seconds 60 --seed 7

A run is a row of episodes. Each starts a cluster of its own, with engines on this "host" and others that
reach it through a network that can be broken, and some client programs. While faults happen to all of them,
the clients make calls of which they know the right answers, and engines write down each run of each call.
Then the cluster is stopped, or one of its vital processes is killed, and it is looked at what became of
everything:

- **lost**: a call that ended in an error which no fault explains, or in a result although it never ran;
- **doubled**: a call that ran more than once, and may not;
- **wrong**: a call with another answer than the right one;
- **hung**: a call, a program or a cluster that did not end;
- **leaked**: processes, sockets, files, shared memory, descriptors, calls that are still there afterwards.

What happens when, and to whom, follows from the seed: a seed that fails gives the same schedule again. (What
the machine makes of it differs a little from run to run, of course.)
"""

from __future__ import annotations

from directview.testing.chaos._report import Report
from directview.testing.chaos._run import run
from directview.testing.chaos._schedule import Episode, Fault, episodes

__all__ = ["Episode", "Fault", "Report", "episodes", "run"]
