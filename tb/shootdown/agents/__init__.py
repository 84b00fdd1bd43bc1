"""Agents of the secondary MMU's bench: drivers, responders, monitors and the scoreboard, all stepped by one clock loop."""
