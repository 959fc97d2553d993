-- Whoever is asked for by an address that they show, and the events of a site in the order of their arrival.

create index properties_shown on properties (site_id, lower(value)) where kind = 'set' and key in ('email', 'phone');
--postgres create index events_by_site on events (site_id, event_id);
