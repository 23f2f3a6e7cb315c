"""Environments served to other programs: sessions, OpenEnv's WebSocket protocol, and MCP."""
