"""What the tests stand on: real database, Redis and ASGI servers, a TCP proxy, and waiting."""
