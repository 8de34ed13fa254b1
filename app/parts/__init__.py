"""What pages share: cards, charts, tray, filters, keys."""
