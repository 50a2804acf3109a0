"""The audit of any model: what its layers do in each phase, what breaks a phase's contract, and what looks unmeant."""

from trainloop.auditing.model_audit import audit
from trainloop.auditing.report import Audit

__all__ = ["Audit", "audit"]
