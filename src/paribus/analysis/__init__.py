"""How two encoders differ: pure functions on feature arrays; nothing here knows of studies or training."""
