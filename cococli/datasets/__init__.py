"""Pictures and videos with captions, or in classes, found in the layouts that people keep them in."""
