"""Files that several processes, users and machines share: read within limits, written atomically, never through links."""
