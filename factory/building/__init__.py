"""From a recipe to sealed artifacts: reading, planning, pricing, starting workers, sealing."""
