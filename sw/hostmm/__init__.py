"""The host: Linux mm paths, notifier policies, subscribers, a deterministic scheduler and the link to the hardware."""
