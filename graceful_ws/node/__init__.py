"""The process: the registry of its connections, the writer, the drain and the reaper."""
