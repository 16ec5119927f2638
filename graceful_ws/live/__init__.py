"""The live dashboard: what its page is told, and by whom. The page itself is in ``admin_live``."""
