"""What any node needs: lifecycle, executor, signals, log, parameters, and what it tells about other nodes' topics."""
