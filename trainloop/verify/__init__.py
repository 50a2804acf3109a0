"""Proving that a run which is killed goes on to the same bits."""

from trainloop.verify.resume import verify_resume
from trainloop.verify.resume_report import ResumeReport

__all__ = ["ResumeReport", "verify_resume"]
