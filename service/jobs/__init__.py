"""Evaluations as jobs: a queue in the database, and a process of `tiller eval run` for each, against this very server.

    asked -> checked by the runner itself -> queued -> running -> done | failed | cancelled

The process is the same command anyone would type; this package imports nothing of `eval`.
"""

from service.jobs.checking import Checker
from service.jobs.launch import Launch
from service.jobs.queue import JobQueue
from service.jobs.records import Job, JobTable

__all__ = ["Checker", "Job", "JobQueue", "JobTable", "Launch"]
