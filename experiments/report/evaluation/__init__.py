"""The part of a report on what evaluators said."""
