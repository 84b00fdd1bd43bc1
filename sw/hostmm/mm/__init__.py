"""The objects of mm: frames, page tables, address spaces, files, reverse maps, the notifier chain."""
