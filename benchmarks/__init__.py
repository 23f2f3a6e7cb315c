"""Runnable measurements; nothing else imports this package."""
