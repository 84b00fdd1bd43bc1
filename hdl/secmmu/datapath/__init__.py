"""What an access goes through from the device's port to the memory's, and back."""
