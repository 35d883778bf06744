"""From a sweep file to a report: what to explore, who runs it, what came out."""
