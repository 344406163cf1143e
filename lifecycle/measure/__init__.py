"""What programs earned, against the customers who were held back."""
