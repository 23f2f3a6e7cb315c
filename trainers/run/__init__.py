"""One run of any training method: arguments, workspace, callbacks, guards."""
