"""What a test leaves: where it lies, its record, its timeline, and finished runs read back."""
