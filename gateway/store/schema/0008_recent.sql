-- The newest identity errors of a site, for the console.

create index identity_errors_by_time on identity_errors (site_id, at);
