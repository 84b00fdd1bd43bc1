"""What stands behind a notifier chain: the kernel side of a device's driver."""
