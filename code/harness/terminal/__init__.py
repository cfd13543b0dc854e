"""What a user sees: messages, progress, findings, and streams that survive whatever reads them."""
