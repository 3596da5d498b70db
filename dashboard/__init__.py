"""Pages that show runs. They read and never compute; nothing imports them, and they import no torch."""
