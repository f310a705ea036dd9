"""What a run tells of itself while it trains: records, where they go, and what they hold."""
