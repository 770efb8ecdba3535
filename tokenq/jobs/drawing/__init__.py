"""Pictures drawn, judged, and put into pairs."""
